"""Search for architectures within limits, with predicted accuracy and predicted or counted costs. No torch."""
