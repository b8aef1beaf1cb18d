"""The packed set: manifest, tars, JPEGs that can be cut, and what may be wrong with them."""
