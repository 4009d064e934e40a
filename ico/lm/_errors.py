"""The one error of files that cannot be read."""


class WeightFileError(ValueError):
    """A file of weights, configuration or tokens that is damaged, hostile or not supported.

    Raised before any allocation that the file asks for is made.
    """
