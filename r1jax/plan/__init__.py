"""Does a stage fit the pod that it is planned for, and how long would it take? Nothing here needs the pod."""
