"""tmp"""
def read_traced(model, call, name=""):
    raise NotImplementedError
