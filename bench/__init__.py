"""How fast is it, against what else one could take: `python -m bench`."""
