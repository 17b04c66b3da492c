"""The kernels of the plans; a file that exists here is registered in `evomerge.engine.kernels.KERNELS`."""
