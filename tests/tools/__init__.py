"""Tools of the tests: a PTX emulator, Triton's interpreter on numpy arrays, a payload reader."""
