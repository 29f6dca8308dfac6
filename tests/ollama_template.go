// Executes chat templates as Ollama does (template/template.go): a template that reads .Messages gets all messages,
// and all system messages joined as .System; neighbours of one role are one message. Reads JSON, writes JSON.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content string }

type Job struct {
	Template      string
	Conversations [][]Message
}

func collate(messages []Message) (string, []*Message) {
	var system []string
	var collated []*Message
	for i := range messages {
		if messages[i].Role == "system" {
			system = append(system, messages[i].Content)
		}
		if n := len(collated); n > 0 && collated[n-1].Role == messages[i].Role {
			collated[n-1].Content += "\n\n" + messages[i].Content
		} else {
			collated = append(collated, &messages[i])
		}
	}
	return strings.Join(system, "\n\n"), collated
}

func main() {
	var jobs []Job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		panic(err)
	}
	texts := make([][]string, len(jobs))
	for at, job := range jobs {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(job.Template))
		for _, messages := range job.Conversations {
			system, collated := collate(messages)
			var text bytes.Buffer
			values := map[string]any{"System": system, "Messages": collated, "Response": ""}
			if err := parsed.Execute(&text, values); err != nil {
				panic(err)
			}
			texts[at] = append(texts[at], text.String())
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		panic(err)
	}
}
