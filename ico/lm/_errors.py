"""The error raised for files that cannot be read."""


class WeightFileError(ValueError):
    """A file of weights, configuration or tokens that is damaged, hostile or not supported.

    Raised before anything of a size that the file asks for is allocated.
    """
