"""Supernets and their layers in torch, and the static networks that subnets are extracted to."""
