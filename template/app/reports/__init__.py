"""An example feature: reports that are computed in the background from a CSV of orders."""
