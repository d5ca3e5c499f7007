# $folder as it was given -> absolute; POSIX sh, in front of others.
case $folder in /*) ;; "~/"*) folder=$HOME/${folder#??} ;; *) folder=$HOME/$folder ;; esac
case $folder in *[!/]*) while [ "$folder" != "${folder%/}" ]; do folder=${folder%/}; done ;; esac
