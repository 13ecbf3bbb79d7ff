"""Ray: starting or joining it, how workers are made, what Train and Tune are asked for. The one room of private names."""
