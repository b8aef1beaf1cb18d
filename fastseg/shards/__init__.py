"""The packed set: manifest, tars, JPEGs that can be cut, and their verification."""
