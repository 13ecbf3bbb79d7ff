"""Ray: starting or joining it, how its workers are made, what Train and Tune are asked for. Its private names."""
