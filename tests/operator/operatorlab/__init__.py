"""What the tests of the operator share. Not named `operator`: that is a module of the standard library."""
