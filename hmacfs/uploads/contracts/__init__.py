"""What the upload use cases need of the outside, and what they promise in return. Pure."""
