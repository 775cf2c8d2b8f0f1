"""Linear operators on images with exact adjoints: what a measurement is made of."""
