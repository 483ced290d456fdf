"""Images from few pixels."""
