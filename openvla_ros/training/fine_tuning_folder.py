"""Names of the files in a fine-tuning's folder."""

#: Conventions of the actions, as config/datasets has them, beside adapter or checkpoint.
PROFILE_FILE = 'dataset_profile.yaml'
