"""ONNX files of subnets: the writer, the comparison with torch, and plans of what a device measures."""
