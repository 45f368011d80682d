"""The model as a service: what it answers, and how Ray Serve runs it."""
