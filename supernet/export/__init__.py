"""ONNX files of subnets: writing them, comparing them with torch, and plans of what a device measures."""
