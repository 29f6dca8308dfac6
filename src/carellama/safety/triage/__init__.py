"""Signs of an emergency in what a person says, by rules and a classifier."""
