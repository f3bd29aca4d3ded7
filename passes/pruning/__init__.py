"""What `Prune` decides by: how much goes, which kind of index, which target."""
