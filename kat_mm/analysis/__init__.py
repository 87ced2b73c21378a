"""What a model costs and what a data set shows. Import the module that is needed."""
