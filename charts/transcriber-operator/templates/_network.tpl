{{/* What network policies are made of. */}}

{{/* Ways out to the names and the API of the cluster. */}}
{{- define "transcriber-operator.clusterEgress" -}}
- ports:
  - {port: 53, protocol: UDP}
  - {port: 53, protocol: TCP}
# Policies see the API server behind its Service: on some clusters on 443, on others on 6443.
- ports:
  {{- range .Values.networkPolicy.apiServerPorts }}
  - {port: {{ . }}, protocol: TCP}
  {{- end }}
  {{- with .Values.networkPolicy.apiServerTo }}
  to:
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Serving and build pods, wherever TranscriberDeployments are served. */}}
{{- define "transcriber-operator.servingPeers" -}}
{{- $namespaces := dict }}
{{- with .Values.watchNamespaces }}
{{- $named := dict "key" "kubernetes.io/metadata.name" "operator" "In" "values" . }}
{{- $namespaces = dict "matchExpressions" (list $named) }}
{{- end }}
{{- $pods := dict "matchExpressions" (list (dict "key" "serving.transcriber.dev/deployment" "operator" "Exists")) }}
{{- toYaml (list (dict "namespaceSelector" $namespaces "podSelector" $pods)) }}
{{- end }}
