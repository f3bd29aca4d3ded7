"""The networks over which all tests run; nothing here imports the compiler."""
