"""A search space of our own for condnet. Importing it registers the space and its models."""

from my_space import model, space  # noqa: F401
