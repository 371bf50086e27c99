"""The commands of `supple`, by what they are for."""
