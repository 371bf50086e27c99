"""Files of images: finding them in folders, checking them, splitting them, decoding them."""
