_sage_inference_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _SAGE_INFERENCE_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _sage_inference_completion sage-inference
