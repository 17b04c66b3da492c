"""The built-in merge methods, one file each; a file that exists here is registered in `evomerge.engine.METHODS`."""
