"""Which particle may have gone where."""
