"""Fast R-CNN (Girshick, ICCV 2015): its training and its test."""
