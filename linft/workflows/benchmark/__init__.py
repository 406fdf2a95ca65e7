"""The benchmark of model selection: which score picks the models that fine-tune best (Deshpande and others 2021)."""
