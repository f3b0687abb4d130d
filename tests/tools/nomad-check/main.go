// Checks Nomad job files as `nomad job validate` does before it asks a server: strictly parsed, variables resolved.
package main

import (
	"fmt"
	"os"

	"github.com/hashicorp/nomad/jobspec2"
)

func main() {
	for _, path := range os.Args[1:] {
		body, err := os.ReadFile(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		job, err := jobspec2.ParseWithConfig(&jobspec2.ParseConfig{Path: path, Body: body, Strict: true})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		job.Canonicalize()
		fmt.Printf("%s: job %s, %d groups\n", path, *job.ID, len(job.TaskGroups))
	}
}
