"""riboray from Python: a model and its tokenizer by one call, and objects as MultiMolecule's."""
