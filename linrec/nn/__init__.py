"""Layers written as plain loops and steps; compile the whole network that holds them with `linrec.compile`."""

from linrec.nn.lmu import LMU, LMUCell, delay_network, zero_order_hold

__all__ = ["LMU", "LMUCell", "delay_network", "zero_order_hold"]
