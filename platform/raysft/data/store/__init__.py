"""Token stores: shards of samples, rows packed into parts, mixtures, manifests, versions."""
