import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # no report could keep a widget
