"""What a request and its answer are: plain values and their parts, which every other package reads."""
