"""Exports: ONNX files of candidates, made by jobs."""
