"""What everything speaks of: models, tasks, recipes, kernels, trajectories, and the trees they hold."""
