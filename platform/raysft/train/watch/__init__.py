"""What watches an attempt: hangs, stragglers, requests to stop, peak speed, traces."""
