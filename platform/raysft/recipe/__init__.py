"""What a run is: schema, loading, arithmetic, fingerprints. Imports pydantic, yaml and the stdlib only."""
