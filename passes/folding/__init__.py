"""The rules of `Fold`."""
