"""One YAML file per trained model: the whole configuration, nothing executable."""
