"""The operator table: which operators keep a value affine in the state, and why others do not."""

from linrec.linear.rules import axes, images, maps, products, reals, sums, tropical, writes
from linrec.linear.rules.table import RULES, Builder, apply

__all__ = ["RULES", "Builder", "apply", "axes", "images", "maps", "products", "reals", "sums", "tropical", "writes"]
