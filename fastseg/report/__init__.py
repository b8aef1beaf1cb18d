"""Read and write a run's folder, and make its report."""
