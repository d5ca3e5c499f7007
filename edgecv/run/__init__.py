"""A run folder: the steps that fill it, the journal of what was done, and what each step left there."""
