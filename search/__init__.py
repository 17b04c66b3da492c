"""One study: samplers, warm starts, selection, comparison, and the ledger of document scores."""
