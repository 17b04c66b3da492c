"""evomerge: evolutionary search for the best merge of language models."""
