"""What a real cluster says of each cause that keeps a model from starting, and the program that recorded it."""
