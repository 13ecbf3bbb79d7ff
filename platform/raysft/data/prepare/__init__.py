"""Recipe -> token stores, on Ray Data: encode, write shards, choose, pack, publish."""
